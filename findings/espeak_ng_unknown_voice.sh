#!/bin/sh
# Guess: an unknown voice or option ends espeak-ng with a status other than 0 and without speech.
# Is: with a voice variant that is not there it says nothing about it, speaks with another voice and ends with status 0; an
#   option that it does not know ends it with status 0 as well.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 777 "$folder"
cd "$folder"
missing=$(apt-get --simulate --no-install-recommends install espeak-ng | sed -n 's/^Inst \([^ ]*\) (.*/\1/p')
apt-get download -qq espeak-ng libespeak-ng1 espeak-ng-data libpcaudio0 libsonic0 $missing 2>&1
for package in *.deb; do dpkg -x "$package" root; done
libraries=$(dirname "$folder"/root/usr/lib/*/libespeak-ng.so.1)
say() {
    echo "hello" | LD_LIBRARY_PATH="$libraries:$libraries/pulseaudio" root/usr/bin/espeak-ng --path="$libraries" --stdin --stdout "$@"
}
ls espeak-ng_*.deb
say -v en-us+nobody > nobody.wav 2> errors
echo "variant that is not there: status 0, $(wc -c < nobody.wav) bytes of sound, $(wc -c < errors) bytes of errors"
test "$(wc -c < nobody.wav)" -gt 10000
test ! -s errors
say --no-such-option > none.wav 2> errors
echo "option that is not there: status 0, $(wc -c < none.wav) bytes of sound, '$(cat errors)'"
test -s errors
