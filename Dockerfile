# imfd in a container, on the CPU (target cpu, the default) or an NVIDIA GPU (target cuda):
#   docker build -t imfd:0.2.0 .                     docker run --rm -p 8080:8080 imfd:0.2.0
#   docker build -t imfd:0.2.0-cuda --target cuda .  docker run --rm -p 8080:8080 --gpus all imfd:0.2.0-cuda
# Settings come from the environment (IMFD_MODELS, IMFD_MAX_BATCH, ...) or a file mounted and named by
# IMFD_CONFIG; models are mounted at /models. Without settings it serves the demo model. It runs as
# user 10001, writes nothing (--read-only), and as process 1 drains on SIGTERM and leaves no zombies.
# tools/image/image.sh builds and starts it where no Docker engine runs.

ARG BASE=debian:12-slim
# CUDA 13.0 (cuBLASLt 13), the version that the kernels are developed with; it needs driver 580 or
# later. For older drivers: --build-arg CUDA=12.8.1 --build-arg CUDA_SERIES=12.8 (driver 525).
ARG CUDA=13.0.1
ARG CUDA_DEVEL=nvidia/cuda:${CUDA}-devel-ubuntu24.04
ARG CUDA_RUNTIME=nvidia/cuda:${CUDA}-runtime-ubuntu24.04

FROM ${BASE} AS sources
WORKDIR /src
# The packages first: they change less often than the sources.
COPY tools/install-deps.sh tools/install-deps.sh
RUN sh tools/install-deps.sh build
COPY . .

FROM sources AS build
RUN cmake --preset release -DIMFD_TESTS=OFF -DIMFD_CUDA=OFF -DCMAKE_INSTALL_PREFIX=/usr \
    && cmake --build build/release \
    && DESTDIR=/out cmake --install build/release --component runtime --strip \
    && install -D tools/image/healthcheck /out/usr/lib/imfd/healthcheck

FROM ${BASE} AS cpu
RUN apt-get update \
    && apt-get install -y --no-install-recommends libcjson1 libdeflate0 libdnnl2 libgomp1 libjpeg62-turbo \
       liblapacke libmicrohttpd12 libopenblas0-pthread libpng16-16 libuv1 libwebp7 zlib1g \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/* \
    && groupadd --system --gid 10001 imfd \
    && useradd --system --uid 10001 --gid imfd --home-dir /nonexistent --shell /usr/sbin/nologin imfd \
    && mkdir /models
COPY --from=build /out/ /
ARG REVISION=unknown
ARG SOURCE=
LABEL org.opencontainers.image.title="imfd" \
      org.opencontainers.image.description="HTTP server of pictures from Improved Mean Flows models, on the CPU" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="MIT AND Apache-2.0"
# Idle threads must not spin in a shared machine; imfd would start itself again to say so.
ENV IMFD_LISTEN=0.0.0.0:8080 OMP_WAIT_POLICY=passive
USER 10001:10001
EXPOSE 8080
VOLUME /models
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["/usr/lib/imfd/healthcheck"]
ENTRYPOINT ["imfd"]
CMD ["serve"]

# NVIDIA has no image on Debian, and its Ubuntu has no oneDNN 2. So the CUDA engine is built with
# NVIDIA's toolkit but Debian's compiler, and takes along the Debian libraries that it was linked
# with, in a folder of its own (tools/image/libs.sh). glibc and cuBLASLt are those of the base.
FROM ${CUDA_DEVEL} AS toolkit

FROM sources AS cuda-build
ARG CUDA_SERIES=13.0
ARG CUDA_ARCHS=all
RUN apt-get update && apt-get install -y --no-install-recommends g++
RUN --mount=type=bind,from=toolkit,source=/usr/local/cuda-${CUDA_SERIES},target=/usr/local/cuda \
    CUDACXX=/usr/local/cuda/bin/nvcc cmake --preset cuda -DIMFD_TESTS=OFF -DIMFD_CUDA_ARCHS="${CUDA_ARCHS}" \
       -DCMAKE_INSTALL_PREFIX=/usr -DCMAKE_INSTALL_RPATH='$ORIGIN/../lib/imfd' \
       -DCMAKE_EXE_LINKER_FLAGS=-Wl,--disable-new-dtags \
    && cmake --build build/cuda \
    && DESTDIR=/out cmake --install build/cuda --component runtime --strip \
    && install -D tools/image/healthcheck /out/usr/lib/imfd/healthcheck \
    && sh tools/image/libs.sh /out

FROM ${CUDA_RUNTIME} AS cuda
RUN groupadd --system --gid 10001 imfd \
    && useradd --system --uid 10001 --gid imfd --home-dir /nonexistent --shell /usr/sbin/nologin imfd \
    && mkdir /models
COPY --from=cuda-build /out/ /
ARG REVISION=unknown
ARG SOURCE=
LABEL org.opencontainers.image.title="imfd" \
      org.opencontainers.image.description="HTTP server of pictures from Improved Mean Flows models, on NVIDIA GPUs" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="MIT AND Apache-2.0"
ENV IMFD_LISTEN=0.0.0.0:8080 OMP_WAIT_POLICY=passive
USER 10001:10001
EXPOSE 8080
VOLUME /models
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["/usr/lib/imfd/healthcheck"]
ENTRYPOINT ["imfd"]
CMD ["serve"]

# Without --target: the CPU image.
FROM cpu
