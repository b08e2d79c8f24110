# docker build --file deploy/images/tor.Dockerfile --tag localhost/onionbalance-tor:dev deploy/images
FROM docker.io/library/debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates tor \
    && rm -rf /var/lib/apt/lists/*
USER 65532:65532
ENTRYPOINT ["/usr/bin/tor"]
