# lora_whisper in a container, for a CPU or for NVIDIA cards.
#
#   docker build -t lora-whisper .
#   docker run --rm -v "$PWD:/data" lora-whisper train experiment=quickstart
#   docker run --rm -v "$PWD:/data" lora-whisper transcribe run=outputs/quickstart audio=talk.mp3
#
#   docker build -t lora-whisper:cuda --build-arg TORCH=cuda .
#   docker run --rm --gpus all -v "$PWD:/data" lora-whisper:cuda train model=small name=mine data.path=mine
#
# What is downloaded is kept in .cache of the folder that is mounted. As one's own user, add
# --user "$(id -u):$(id -g)". Pages: -p 127.0.0.1:7860:7860, and host=0.0.0.0 behind demo or record.

FROM python:3.11-slim

# cpu: the small build of PyTorch. cuda: the one of the package index, which brings CUDA's libraries,
# so that the machine needs its driver and NVIDIA's container toolkit alone.
ARG TORCH=cpu
ARG EXTRAS=demo,ctranslate2

WORKDIR /opt/lora-whisper
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY conf conf
COPY lora_whisper lora_whisper
RUN case "$TORCH" in \
        cpu) export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu ;; \
        cuda) ;; \
        *) echo "TORCH=$TORCH: expected cpu or cuda"; exit 2 ;; \
    esac \
    && pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]"

ENV HOME=/data HF_HOME=/data/.cache/huggingface XDG_CACHE_HOME=/data/.cache PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /data
EXPOSE 7860
ENTRYPOINT ["lora-whisper"]
CMD ["--help"]
