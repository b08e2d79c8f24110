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
# Who may run a program but not read it gets a process that nobody of the same user can look into, from its first moment.
COPY --from=build --chmod=0711 /onionbalance-operator /usr/local/bin/
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/onionbalance-operator"]
