#!/bin/busybox sh
# The only page of the sample web app. It names the pod that answers and the address that the
# connection comes from, which is a backend of the onion service.
caller=${REMOTE_ADDR#"[::ffff:"}
printf 'Content-Type: text/plain\r\n\r\nHello from %s, called by %s\n' "$HOSTNAME" "${caller%]}"
