# Made by ft for sh, bash and zsh: `. bin/activate`. `deactivate` takes it back.

if [ -n "${BASH_SOURCE:-}" ]; then
    _ft_script="${BASH_SOURCE}"
elif [ -n "${ZSH_VERSION:-}" ]; then
    eval '_ft_script="${(%):-%x}"'
else
    _ft_script="${FT_ACTIVATE:-$0}"
fi
VIRTUAL_ENV="$(cd "$(dirname -- "$_ft_script")/.." > /dev/null && pwd)"
unset _ft_script
export VIRTUAL_ENV

deactivate() {
    if [ -n "${_FT_OLD_PATH+set}" ]; then
        PATH="$_FT_OLD_PATH"
        export PATH
        unset _FT_OLD_PATH
    fi
    if [ -n "${_FT_OLD_PS1+set}" ]; then
        PS1="$_FT_OLD_PS1"
        unset _FT_OLD_PS1
    fi
    unset VIRTUAL_ENV VIRTUAL_ENV_PROMPT
    unset -f deactivate
    hash -r 2> /dev/null || true
}

_FT_OLD_PATH="$PATH"
PATH="$VIRTUAL_ENV/bin:$PATH"
export PATH
VIRTUAL_ENV_PROMPT=parity
export VIRTUAL_ENV_PROMPT
if [ -z "${VIRTUAL_ENV_DISABLE_PROMPT:-}" ] && [ -n "${PS1:-}" ]; then
    _FT_OLD_PS1="$PS1"
    PS1="(parity) $PS1"
fi
hash -r 2> /dev/null || true
