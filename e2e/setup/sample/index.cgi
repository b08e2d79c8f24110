#!/bin/busybox sh
# The sample web app's one page: which pod answers, and where the connection comes from (a backend of the onion service).
caller=${REMOTE_ADDR#"[::ffff:"}
printf 'Content-Type: text/plain\r\n\r\nHello from %s, called by %s\n' "$HOSTNAME" "${caller%]}"
