#!/usr/bin/env bash
# Writes the seeds: a few well-formed inputs for each target. e2e/setup/fuzz.sh adds the test data
# from src/. The doc comment of `expand` in src/lib.rs explains %C, %A, %E, %L, %K and %M.
set -euo pipefail
cd "$(dirname "$0")"
rm -rf seeds

seed() {
    mkdir -p "seeds/$1"
    cat >"seeds/$1/$2"
}
zeros() { head -c "$1" /dev/zero; }
letters() { zeros "$1" | tr '\0' A; }

seed descriptor_outer plain <<'END'
hs-descriptor 3
descriptor-lifetime 180
descriptor-signing-key-cert
%Crevision-counter 7
superencrypted
%M
END
seed descriptor_layer1 plain <<END
desc-auth-type x25519
desc-auth-ephemeral-key $(letters 43)=
auth-client $(letters 11) $(letters 22) $(letters 22)
encrypted
%M
END
seed descriptor_layer2 two-points <<END
create2-formats 2 3
intro-auth-required ed25519
single-onion-service
flow-control 1-2 31
introduction-point %L
onion-key ntor $(letters 43)=
auth-key
%Aenc-key ntor %K
enc-key-cert
%Eintroduction-point %L
onion-key ntor $(letters 43)=
auth-key
%Aenc-key ntor %K
enc-key-cert
%E
END
seed descriptor_layer2 legacy-and-pow <<END
create2-formats 2
pow-params v1 $(letters 43) 16 2026-01-01T00:00:00
introduction-point %L
onion-key ntor $(letters 43)
auth-key
%Aenc-key ntor %K
enc-key-cert
%Elegacy-key
-----BEGIN RSA PUBLIC KEY-----
AAAA
-----END RSA PUBLIC KEY-----
legacy-key-cert
-----BEGIN CROSSCERT-----
AAAA
-----END CROSSCERT-----
END
# Certificates: VERSION, CERT_TYPE, EXPIRATION, KEY_TYPE and the key. One of them also has an
# extension with a signing key.
{ printf '\x01\x09\x00\x0f\x00\x00\x01'; zeros 32; printf '\x01\x00\x20\x04\x00'; zeros 32; } | seed certificate extension
{ printf '\x01\x0b\x00\x0f\x00\x00\x01'; zeros 32; printf '\x00'; } | seed certificate no-extension
printf '\x03250-version=0.4.9.11\r\n250+md/all=\r\nonion-key\r\n..\r\n.\r\n250 OK\r\n' | seed control reply
printf '\x07650 HS_DESC UPLOADED %s UNKNOWN $%s~name\r\n650 HS_DESC FAILED %s NO_AUTH $%s~n AAAA REASON=UPLOAD_REJECTED\r\n' \
    "$(letters 56)" "$(letters 40)" "$(letters 56)" "$(letters 40)" | seed control uploads
printf '\x01250-PROTOCOLINFO 1\r\n250-AUTH METHODS=COOKIE,SAFECOOKIE COOKIEFILE="/a \\"b\\" \\303\\251"\r\n250 OK\r\n' | seed control quoted
printf '\x02650 STATUS_CLIENT NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY="Done"\r\n650+NEWCONSENSUS\r\nr x\r\n.\r\n650 OK\r\n' |
    seed control events
printf '\x05\xf2\x00\x01\x00\x00\x00\x00\x00\x00' | seed socks refused
printf '\x05\x00\x00\x03\x03abc\x00\x50' | seed socks name
zeros 64 | seed key_file expanded
printf '== ed25519v1-public: type0 ==\0\0\0' | cat - <(zeros 32) | seed key_file public
{ printf '\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20'; zeros 32; } | seed key_file pkcs8
{ echo '-----BEGIN PRIVATE KEY-----'; echo "MC4CAQAwBQYDK2VwBCIEI$(letters 43)"; echo '-----END PRIVATE KEY-----'; } | seed key_file pem
seed config_file plain <<'END'
services:
- key: master.key
  instances:
  - address: 2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion
    name: node1
  - address: pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd
status-socket-location: /run/status.sock
END
printf '2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion\n' | seed key_file hostname
printf '{"publisher":"a","sequence":7,"leading":true,"phase":"Withdrawn","knownRevision":{"boot":1,"number":3}}' |
    seed agent_message request
printf '{"onionAddress":"2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion","revision":{"boot":1,"number":2},"introductionPoints":3,"descriptor":"hs-descriptor 3\\n","streams":4,"draining":false}' |
    seed agent_message response
seed agent_message config <<'END'
masterOnionAddress: 2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion
ports:
- name: http
  port: 80
  target: "[::1]:8080"
introductionPoints: 3
drainTimeoutSeconds: 120
lingerSeconds: 30
END
letters 64 | seed agent_message token
printf 'Guard in=default rsa_id=%s nickname=one sampled_on=2026-07-01T10:00:00 sampled_idx=0 sampled_by=0.4.9.11 listed=1 confirmed_on=2026-07-02T10:00:00 confirmed_idx=0\n\0Guard in=default rsa_id=%s sampled_on=2026-07-01T10:00:00 sampled_idx=1 unlisted_since=2026-07-03T10:00:00 listed=0\n' \
    "$(letters 40)" "$(letters 40)" | seed guards pair
printf 'onionbalance-vanguards 1\nlayer2 %s 1800000000\nlayer3 %s 1800000001\n' "$(letters 40)" "$(letters 40)" |
    seed guards vanguards
