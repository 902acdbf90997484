# syntax=docker/dockerfile:1
# rlhf_dist for Ascend NPUs, on aarch64, with the exact versions of requirements/:
#   docker build -f docker/npu.Dockerfile -t rlhf_dist:npu .
# The host brings the driver: docs/operators.md names what is mounted from it.
# CANN and NNAL as vllm-ascend 0.23 asks for; its installation page lists the tags of other NPUs than the 910B.
ARG CANN=9.1.0-910b-ubuntu22.04-py3.12
FROM quay.io/ascend/cann:${CANN}

RUN apt-get update \
    && apt-get install --yes --no-install-recommends cmake g++ git libnuma-dev make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 rlhf \
    && install --directory --owner=rlhf --group=rlhf /opt/rlhf_dist

# What every shell needs, a login shell or not: CANN's libraries and this package's programs.
# hadolint ignore=SC2016
RUN printf '%s\n' \
      '. /usr/local/Ascend/ascend-toolkit/set_env.sh' \
      '. /usr/local/Ascend/nnal/atb/set_env.sh' \
      'export PATH=/opt/rlhf_dist/.venv/bin:$PATH' > /etc/profile.d/rlhf_dist.sh

WORKDIR /opt/rlhf_dist
COPY --chown=rlhf:rlhf . .

# Ascend's index has triton-ascend, which PyPI has not. On x86-64 add PyTorch's, https://download.pytorch.org/whl/cpu.
# The stand-ins of the driver's libraries (devlib) are for this step alone: it imports torch, on a machine without NPUs.
ARG PIP_EXTRA_INDEX_URL=https://mirrors.huaweicloud.com/ascend/repos/pypi
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN --mount=type=cache,target=/root/.cache/pip \
    python="$(command -v python3)" \
    && . /etc/profile.d/rlhf_dist.sh \
    && devlib="/usr/local/Ascend/ascend-toolkit/latest/$(uname -m)-linux/devlib" \
    && export LD_LIBRARY_PATH="$LD_LIBRARY_PATH:$devlib" \
    && "$python" tools/install.py --device npu --locked --python "$python"

ENV BASH_ENV=/etc/profile.d/rlhf_dist.sh
USER 10001
ENTRYPOINT ["/bin/bash", "-lc", "exec \"$0\" \"$@\""]
CMD ["rlhf-dist", "--help"]
