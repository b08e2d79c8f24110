# docker build --file deploy/images/sample.Dockerfile --tag localhost/onionbalance-sample:dev .
FROM docker.io/library/debian:bookworm-slim@sha256:abd67ffcfa541b485a3dff59865ab629aa048a6c613e639d36e7456b0b229241 AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends binutils busybox-static
COPY --chmod=0755 deploy/images/rootfs.sh /
RUN /rootfs.sh / /bin/busybox /bin/busybox 0755 /image
# busybox' web server calls cgi-bin/index.cgi for / when there is no index.html.
COPY --chmod=0755 e2e/setup/sample/index.cgi /image/www/cgi-bin/index.cgi

FROM scratch
COPY --from=build /image /
USER 65532:65532
ENTRYPOINT ["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"]
