"""A page served: to this machine alone unless asked otherwise, and nothing of the machine with it.

What Gradio offers beside the page (monitoring, run history, its API's description, a tool server,
statistics for its makers) is off. Uploads lie in a folder of this server alone, which goes when it
ends; no other file is given out.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_whisper.config import ServedConfig
from lora_whisper.errors import UserError

if TYPE_CHECKING:
    import gradio

log = logging.getLogger("lora_whisper")

STATIC = Path(__file__).parent / "static"
FIRST_PORT, PORTS = 7860, 100  # that are tried where none is typed
# With them Gradio would give out files, speak to others or be found elsewhere; nobody typed them
# for this page.
UNWANTED = (
    "GRADIO_ALLOWED_PATHS",
    "GRADIO_SHARE",
    "GRADIO_MCP_SERVER",
    "GRADIO_SSR_MODE",
    "GRADIO_NUM_WORKERS",
    "GRADIO_SERVER_NAME",
    "GRADIO_SERVER_PORT",
)
KEPT_SECONDS = 3600  # an upload, after which it is deleted
Page = Callable[[Path], "gradio.Blocks"]  # of the folder that it may show files of


def require_served(served: ServedConfig) -> None:
    """See that the page can be made, and its address be listened on.

    Raises:
        UserError: the extra is not installed; the address is none of this machine's, or taken.
    """
    if served.port is not None and not _is_free(served.host, served.port):
        raise UserError(
            f"port={served.port} of {served.host} is in use. Type another one, or leave it out for "
            f"the first that is free from {FIRST_PORT}."
        )
    require_gradio()


def require_gradio() -> None:
    """See that the extra is installed, without the seconds that importing it takes."""
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise UserError(
            "Pages in a browser need Gradio, which is not installed.\n"
            "Type pip install 'lora-whisper[demo]'"
        )


def _is_free(host: str, port: int) -> bool:
    """Raises UserError: the host is none of this machine's."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise _no_host(host, error) from error
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(address)
        except PermissionError:
            return False
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise _no_host(host, error) from error
            return False
    return True


def _no_host(host: str, error: OSError) -> UserError:
    return UserError(
        f"host={host}: {error.strerror or error}. Type 127.0.0.1 for this machine alone, 0.0.0.0 "
        "for whoever reaches it."
    )


def free_port(served: ServedConfig) -> int:
    """The one that was typed, or the first that is free.

    Raises:
        UserError: none is.
    """
    if served.port is not None:
        return served.port
    ports = range(FIRST_PORT, FIRST_PORT + PORTS)
    found = next((port for port in ports if _is_free(served.host, port)), None)
    if found is None:
        raise UserError(f"No port of {ports[0]} – {ports[-1]} is free. Type port=…")
    return found


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """Where uploads lie: readable for nobody else, and gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="lora-whisper-")).resolve()
    before = {name: os.environ.pop(name, None) for name in UNWANTED}
    changed = {"GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False"}
    before |= {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield folder
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)


def serve(page: Page, served: ServedConfig, label: str, most_bytes: int) -> None:
    """Serve a page until this process is interrupted.

    Args:
        label: of the line that says where it is.
        most_bytes: of an upload.
    """
    with own_folder() as folder, running(page(folder), served, most_bytes) as address:
        log.info("%-11s %s, until Ctrl-C", label, address)
        warn_of_others(served)
        sys.stdout.flush()  # a pipe's reader, such as a container's log, would wait for more
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    log.info("%-11s the page is closed", "stopped")


@contextlib.contextmanager
def running(blocks: gradio.Blocks, served: ServedConfig, most_bytes: int) -> Iterator[str]:
    """A page that is served meanwhile; gives its address. Both it and this are in `own_folder`."""
    import gradio

    auth = (served.user, served.password) if served.user and served.password else None
    options: dict[str, Any] = {"auth": auth} if auth else {}
    blocks.launch(
        server_name=served.host,
        server_port=free_port(served),
        share=served.share,
        prevent_thread_lock=True,
        quiet=True,
        inline=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        max_file_size=most_bytes,
        strict_cors=True,
        theme=_theme(gradio),
        css_paths=sorted(STATIC.glob("*.css")),
        **options,
    )
    try:
        yield blocks.share_url or blocks.local_url or ""
    finally:
        with contextlib.redirect_stdout(None):
            blocks.close(verbose=False)


def _theme(gradio: Any) -> Any:
    """Fonts of the reader's own machine: others would be fetched from Google."""
    return gradio.themes.Soft(
        primary_hue="teal",
        neutral_hue="slate",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
    ).set(
        body_background_fill="*neutral_50",
        body_text_color_subdued="*neutral_500",  # 4.8 : 1 on white, where 400 has 2.6 : 1
        block_label_border_width="0",
        block_label_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_text_color="*body_text_color",
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_title_text_color="*body_text_color",
        block_title_padding="0",
        button_primary_background_fill="#0f766e",  # white on it can be read
        button_primary_background_fill_dark="#0f766e",
        button_primary_background_fill_hover="#115e59",
        button_primary_background_fill_hover_dark="#115e59",
        checkbox_label_background_fill_selected="#0f766e",
        checkbox_label_background_fill_selected_dark="#0f766e",
    )


def new_blocks(title: str) -> gradio.Blocks:
    """An empty page, which tells nobody that it was opened."""
    import gradio

    return gradio.Blocks(
        title=title, analytics_enabled=False, delete_cache=(KEPT_SECONDS // 6, KEPT_SECONDS)
    )


def static(name: str) -> str:
    """A file of the page's own."""
    return (STATIC / name).read_text(encoding="utf-8")


def warn_of_others(served: ServedConfig) -> None:
    is_open = served.share or not _is_this_machine(served.host)
    if is_open and not served.user:
        log.warning("%-11s whoever reaches the page can use it; user=… password=… ask", "open")
    if not served.share and not _is_this_machine(served.host):
        log.warning(
            "%-11s browsers give a microphone to pages of this machine and of https alone: "
            "share=true, or a tunnel such as ssh -L",
            "microphone",
        )


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
