# docker build --file deploy/images/sample.Dockerfile --tag localhost/onionbalance-sample:dev .
FROM docker.io/library/debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends busybox-static \
    && rm -rf /var/lib/apt/lists/*
# busybox' web server calls cgi-bin/index.cgi for / when there is no index.html.
COPY --chmod=0755 e2e/setup/sample/index.cgi /www/cgi-bin/index.cgi
USER 65532:65532
ENTRYPOINT ["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"]
