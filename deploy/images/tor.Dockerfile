# docker build --file deploy/images/tor.Dockerfile --tag localhost/onionbalance-tor:dev deploy/images
# With the pluggable transport obfs4, for bridges (docs/bridges.md):
# docker build --file deploy/images/tor.Dockerfile --build-arg TRANSPORT=obfs4proxy \
#     --tag localhost/onionbalance-tor-obfs4:dev deploy/images
FROM docker.io/library/debian:bookworm-slim@sha256:abd67ffcfa541b485a3dff59865ab629aa048a6c613e639d36e7456b0b229241 AS build
# By default, the newest version that Debian offers, because it has all security fixes.
ARG TOR_VERSION=
# The Debian package, and the program, of a pluggable transport.
ARG TRANSPORT=
RUN apt-get update \
    && apt-get upgrade --yes \
    && apt-get install --yes --no-install-recommends binutils "tor${TOR_VERSION:+=$TOR_VERSION}" $TRANSPORT
COPY --chmod=0755 rootfs.sh /
RUN /rootfs.sh ${TRANSPORT:+--helper "/usr/bin/$TRANSPORT"} / /usr/bin/tor /usr/bin/tor 0755 /image

FROM scratch
COPY --from=build /image /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
USER 65532:65532
ENTRYPOINT ["/usr/bin/tor"]
