#!/bin/bash
# Sources the app's .profile.d and tells the launcher what that has changed, as TOML on descriptor 3.
declare -A before
while IFS= read -r -d '' item; do before[${item%%=*}]=${item#*=}; done < <(env -0)
exec {told}>&3 3>&-
for script in .profile.d/*.sh; do
    [ -f "$script" ] && . "$script" >&2
done
while IFS= read -r -d '' item; do
    name=${item%%=*} value=${item#*=}
    case $name in _ | PWD | OLDPWD | SHLVL | *[!A-Za-z0-9_]*) continue ;; esac
    [ "${before[$name]+set}${before[$name]-}" = "set$value" ] && continue
    value=${value//\\/\\\\} value=${value//\"/\\\"} value=${value//$'\n'/\\n} value=${value//$'\r'/\\r}
    printf '%s = "%s"\n' "$name" "$value" >&"$told"
done < <(env -0)
exit 0
