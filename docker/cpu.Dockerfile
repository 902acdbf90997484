# syntax=docker/dockerfile:1
# rlhf_dist for machines without an accelerator, with the exact versions of requirements/:
#   docker build -f docker/cpu.Dockerfile -t rlhf_dist:cpu .
FROM python:3.11-slim-bookworm

# A compiler, as torch.compile may ask for one; libnuma, which vLLM's CPU build binds its threads with.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libnuma1 make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 rlhf \
    && install --directory --owner=rlhf --group=rlhf /opt/rlhf_dist

WORKDIR /opt/rlhf_dist
COPY --chown=rlhf:rlhf . .

# PyTorch's index has the small CPU build; without it torch is the CUDA build, several gigabytes.
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
# hadolint ignore=SC2016
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 tools/install.py --device cpu --locked --python /usr/local/bin/python3 \
    && echo 'export PATH=/opt/rlhf_dist/.venv/bin:$PATH' > /etc/profile.d/rlhf_dist.sh

ENV PATH=/opt/rlhf_dist/.venv/bin:$PATH
USER 10001
CMD ["rlhf-dist", "--help"]
