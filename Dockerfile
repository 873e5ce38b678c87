# imfd on the CPU: docker build -t imfd . && docker run --rm -p 8080:8080 imfd
# Settings come from the environment (IMFD_LISTEN, IMFD_MODELS, ...) or a file mounted and named by
# IMFD_CONFIG; models are mounted at /models. Without settings it serves the demo model.

FROM debian:12-slim AS build
WORKDIR /src
# The packages first: they change less often than the sources.
COPY tools/install-deps.sh tools/install-deps.sh
RUN sh tools/install-deps.sh build
COPY . .
RUN cmake --preset release -DIMFD_TESTS=OFF -DCMAKE_INSTALL_PREFIX=/usr \
    && cmake --build build/release \
    && DESTDIR=/out cmake --install build/release --component runtime --strip

FROM debian:12-slim AS cpu
RUN apt-get update \
    && apt-get install -y --no-install-recommends libcjson1 libdeflate0 libdnnl2 libgomp1 liblapacke \
       libmicrohttpd12 libopenblas0-pthread libpng16-16 libuv1 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin imfd \
    && mkdir /models
COPY --from=build /out/ /
# Idle threads must not spin in a shared machine; imfd would start itself again to say so.
ENV IMFD_LISTEN=0.0.0.0:8080 OMP_WAIT_POLICY=passive
USER imfd
EXPOSE 8080
VOLUME /models
STOPSIGNAL SIGTERM
# bash opens the connection itself: no client needs to be installed.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3 && read -r line <&3 && [[ $line == *' 200 '* ]]"]
ENTRYPOINT ["imfd"]
CMD ["serve"]
