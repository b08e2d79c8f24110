# docker build --file deploy/images/operator.Dockerfile --tag localhost/onionbalance-operator:dev .
FROM docker.io/library/rust:1-slim-bookworm AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked --package onionbalance-operator \
    && cp target/release/onionbalance-operator /onionbalance-operator

FROM docker.io/library/debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
# A user that may run the program but not read it cannot inspect the process, not even right after its start.
COPY --from=build --chmod=0711 /onionbalance-operator /usr/local/bin/
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/onionbalance-operator"]
