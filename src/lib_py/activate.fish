# Made by ft for fish: `source bin/activate.fish`. `deactivate` takes it back.

set -gx VIRTUAL_ENV (builtin realpath (dirname (status current-filename))/..)
set -gx _FT_OLD_PATH $PATH
set -gx PATH $VIRTUAL_ENV/bin $PATH

function deactivate
    set -gx PATH $_FT_OLD_PATH
    set -e _FT_OLD_PATH
    set -e VIRTUAL_ENV
    functions -e deactivate
end
