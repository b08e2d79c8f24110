# docker build --file deploy/images/operator.Dockerfile --tag localhost/onionbalance-operator:dev .
# With --build-arg ONIONBALANCE_COMMIT="$(git rev-parse --short=12 HEAD)", the program's version names the commit.
FROM docker.io/library/rust:1-slim-bookworm@sha256:b5395fa1e42e25148de9b2fd8c8c3a8a341ccb17554ade0ad6bd9a47031f5101 AS build
# The packages whose files go into the image, in their newest versions.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends base-files binutils ca-certificates libc6 libgcc-s1 python3
WORKDIR /source
COPY . .
ARG ONIONBALANCE_COMMIT=
RUN cargo build --release --locked --package onionbalance-operator --bin onionbalance-operator
# A user that may run the program but not read it cannot inspect the process, not even right after its start.
RUN deploy/images/rootfs.sh --certificates / target/release/onionbalance-operator \
    /usr/local/bin/onionbalance-operator 0711 /image
RUN deploy/licences.py >licences \
    && install -D --mode=0644 licences /image/usr/share/doc/onionbalance-operator/copyright

FROM scratch
COPY --from=build /image /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/onionbalance-operator"]
