# Makes a certificate for the S3 server, unless there is one: sh certificate.sh FOLDER HOST
#
# FOLDER then has the server's certificate (HOST.pem) with its key (HOST.key), and trusted.pem: this machine's usual
# certificates and the server's. To make a new one, delete HOST.pem.
set -eu
cd "$1"
if [ ! -e "$2.pem" ]; then
    # This is not a CA certificate, because clients refuse one as a server's certificate.
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj "/CN=$2" \
        -extensions v3_req -addext "subjectAltName=DNS:$2" -keyout "$2.key" -out new.pem
    # The S3 server runs as another user, so everybody may read the key. Only the S3 server and the replicas have this
    # folder.
    chmod 644 "$2.key"
    mv new.pem "$2.pem"
fi
# Each time, because a newer image has newer usual certificates.
cat /etc/ssl/certs/ca-certificates.crt "$2.pem" > trusted.new
mv trusted.new trusted.pem
