# gptlab in a container:
#   docker build -t gptlab . && docker run --rm -v "$PWD:/work" gptlab train
# for GPUs:
#   docker build -t gptlab --build-arg TORCH=https://pypi.org/simple . && docker run --rm --gpus all --shm-size 8g -v "$PWD:/work" gptlab train
FROM python:3.13-slim

# g++ is what torch.compile needs on a CPU; its version is that of the base image
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home gptlab

ARG TORCH=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY conf conf
COPY examples examples
# hadolint takes the project itself for a package without a version
# hadolint ignore=DL3013
RUN pip install --no-cache-dir --extra-index-url "$TORCH" '.[files,report]'

# runs are written into the folder that is mounted here; --user "$(id -u)" where you are another one than 1000
USER 1000
WORKDIR /work
ENTRYPOINT ["gptlab"]
CMD ["--help"]
