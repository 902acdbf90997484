# syntax=docker/dockerfile:1
# rlhf_dist for NVIDIA cards, with the exact versions of requirements/ (CUDA 13, driver 580 or later):
#   docker build -f docker/cuda.Dockerfile -t rlhf_dist:cuda .
#   docker run --gpus all --shm-size 16g ... rlhf_dist:cuda rlhf-dist ppo --config ...
# The development image, as vLLM and Triton compile kernels when they first need them.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04

RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 rlhf \
    && install --directory --owner=rlhf --group=rlhf /opt/rlhf_dist

WORKDIR /opt/rlhf_dist
COPY --chown=rlhf:rlhf . .

# The device is named: the machine that builds an image has no card to be found.
# hadolint ignore=SC2016
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 tools/install.py --device cuda --locked --python /usr/bin/python3 \
    && echo 'export PATH=/opt/rlhf_dist/.venv/bin:$PATH' > /etc/profile.d/rlhf_dist.sh

ENV PATH=/opt/rlhf_dist/.venv/bin:$PATH
USER 10001
CMD ["rlhf-dist", "--help"]
