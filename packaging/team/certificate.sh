# Makes a certificate for the S3 server, unless there is one: sh certificate.sh FOLDER HOST
#
# FOLDER then has the server's certificate (HOST.pem) with its key (HOST.key), and trusted.pem: this machine's usual
# certificates and the new one. To make a new one, delete the files in FOLDER.
set -eu
cd "$1"
if [ -e trusted.pem ]; then
    exit 0
fi
# This is not a CA certificate, because clients refuse one as a server's certificate.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj "/CN=$2" \
    -extensions v3_req -addext "subjectAltName=DNS:$2" -keyout "$2.key" -out "$2.pem"
# The S3 server runs as another user, so everybody may read the key. Only the S3 server and the replicas have this
# folder.
chmod 644 "$2.key"
cat /etc/ssl/certs/ca-certificates.crt "$2.pem" > trusted.new
mv trusted.new trusted.pem
