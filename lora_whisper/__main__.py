"""`lora-whisper COMMAND …`, also `python -m lora_whisper COMMAND …`."""

from __future__ import annotations

import sys

STOPPED = 130  # the exit code of who was ended by SIGINT

try:  # before any handler is there: people press Ctrl-C while this is read, too
    import difflib
    import importlib
    from collections.abc import Sequence

    from lora_whisper import __version__
    from lora_whisper.errors import UserError
    from lora_whisper.paths import require_current_folder
except KeyboardInterrupt:
    sys.stderr.write("stopped: by Ctrl-C\n")
    sys.exit(STOPPED)

COMMANDS = {
    "record": "make a data set in the browser, by reading sentences aloud",
    "check": "look for what is wrong with speech before training on it",
    "train": "adapt a checkpoint to speech, and score base and adapter",
    "search": "train with many values, and keep the best by validation WER",
    "evaluate": "score a run's base, adapter and merged model",
    "merge": "fold an adapter into its base, and score the result",
    "export": "write the merged model for other programs, and try it there",
    "transcribe": "recordings to texts and subtitles, by a run's model or another",
    "demo": "try base and adapters in the browser, side by side",
    "push": "put a run's adapter or merged model on the hub, private by default",
    "report": "lay the runs of a sweep side by side, on one page",
    "plan": "tell what fits a GPU's memory, without one",
    "doctor": "tell what this machine can do, and what is missing",
    "adapters": "list the adapters in a folder, with what each was worth",
}
USAGE = "\n".join(
    [
        "lora-whisper: LoRA training for OpenAI's Whisper",
        "",
        "usage: lora-whisper COMMAND [key=value …]; lora-whisper adapters [FOLDER];",
        "       lora-whisper report FOLDER",
        "",
        *(f"  {name:12}{purpose}" for name, purpose in COMMANDS.items()),
        "",
        "lora-whisper COMMAND --help lists its keys, with what each one means.",
        "To begin with: lora-whisper train experiment=quickstart",
    ]
)


def main() -> None:
    """Run the command that the first word names; exit with its code."""
    try:
        _main_guarded()
    except KeyboardInterrupt:  # still before there were handlers
        sys.stderr.write("stopped: by Ctrl-C\n")
        sys.exit(STOPPED)


def _main_guarded() -> None:
    from lora_whisper.terminal import guarded, print_error, require_delivered
    from lora_whisper.training.stopping import ended_by_signals

    with guarded():
        try:
            with ended_by_signals():  # importing takes seconds, in which people press Ctrl-C
                require_current_folder()  # MKL ends the process where there is none
                exit_code = _main()
            if exit_code == 0:
                require_delivered()
            sys.exit(exit_code)
        except UserError as error:
            print_error(f"error: {error}")
            sys.exit(2)
        except KeyboardInterrupt as stop:
            print_error(f"stopped: {str(stop) or 'by Ctrl-C'}")
            sys.exit(getattr(stop, "exit_code", STOPPED))


def _main() -> int:
    name, arguments = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if name in ("help", "--help", "-h"):  # a word of its own, as git and pip have it
        if arguments:
            return _help(arguments)
        print(USAGE)
    elif name == "--version":
        print(f"lora-whisper {__version__}")
    elif name in COMMANDS:
        return carry_out(name, arguments)
    else:
        return _no_command(name)
    return 0


def _help(words: Sequence[str]) -> int:
    """Of a command; or of a key or a group of keys, in the first command that has it."""
    name, *topics = words
    if name not in COMMANDS:
        from lora_whisper.cli.misfits import known_keys

        have = [one for one in ("train", *COMMANDS) if name in known_keys(one)]
        if not have and _near(name):
            return _no_command(name)
        name, topics = next(iter(have), "train"), [*words]
    return carry_out(name, ["--help", *topics])


def _no_command(name: str) -> int:
    near = _near(name)
    meant = f". Did you mean {near}?" if near else ""
    print(f"error: {name!r} is not a command{meant}\n\n{USAGE}", file=sys.stderr)
    return 2


def _near(name: str) -> str:
    return next(iter(difflib.get_close_matches(name, COMMANDS, n=1)), "")


def carry_out(name: str, arguments: Sequence[str]) -> int:
    """Carry out the command line of a command; return its exit code."""
    module = importlib.import_module(f"lora_whisper.cli.{name}")
    if not hasattr(module, "COMMAND"):  # without a configuration, and without Hydra
        return int(module.main(arguments))
    from lora_whisper.cli.app import run_command

    return run_command(module.COMMAND, arguments)


if __name__ == "__main__":
    main()
