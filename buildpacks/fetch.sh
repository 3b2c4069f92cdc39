#!/bin/sh
# Runs in a container of the build image: brings a stranger's buildpack into a folder.
#   fetch.sh git URL REF FOLDER
#   fetch.sh archive URL FOLDER
set -eu
export HOME=/tmp GIT_TERMINAL_PROMPT=0 GIT_ALLOW_PROTOCOL=http:https:git GIT_CONFIG_NOSYSTEM=1
case $1 in
git)
    git -c init.defaultBranch=none init -q "$4"
    cd "$4"
    git fetch -q --depth 1 --no-tags --no-recurse-submodules -- "$2" "$3"
    git -c advice.detachedHead=false checkout -q FETCH_HEAD
    git rev-parse HEAD > .git-revision
    rm -rf .git
    ;;
archive)
    mkdir -p "$3"
    cd "$3"
    curl -fsSL --proto '=http,https' --max-filesize 209715200 -- "$2" | tar -xz --no-same-owner
    ;;
esac
