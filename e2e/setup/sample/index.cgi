#!/bin/busybox sh
# The only page of the sample web app. It contains the name of the pod that serves it and the
# address of the caller, which is a backend of the onion service.
caller=${REMOTE_ADDR#"[::ffff:"}
printf 'Content-Type: text/plain\r\n\r\nHello from %s, called by %s\n' "$HOSTNAME" "${caller%]}"
