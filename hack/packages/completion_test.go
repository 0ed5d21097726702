// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Each script takes the directory of a shell's completions and a line that somebody has
// begun, and prints to what the shell completes it, or nothing.
const (
	// bash -c: bash calls what "complete" registered with these variables.
	inBash = `source /usr/share/bash-completion/bash_completion
source "$0/egressd"
read -ra COMP_WORDS <<<"$1"
COMP_LINE=$1 COMP_POINT=${#1} COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_TYPE=9
registered=$(complete -p egressd) || exit
[[ $registered =~ -F\ ([^ ]+) ]] || exit
"${BASH_REMATCH[1]}" egressd "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}" 2>/dev/null
echo "${COMPREPLY[*]}"`

	// zsh -f -c: only its line editor completes, and that wants a terminal. There, somebody
	// presses the tabulator, goes to the begin of the line (^A), and lets it be printed.
	inZsh = `zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PROMPT= RPROMPT= LISTMAX=-1; bindkey -e; unsetopt beep; fpath=(${(q)0} \$fpath)"
zpty -w shell 'autoload -Uz compinit && compinit -u -D && print -r -- REA""DY'
zpty -r -m shell out '*READY*' || exit
zpty -w -n shell "$1"$'\t\x01'"print -r -- 'RES''ULT' "$'\x05'" 'E''ND'"$'\n'
zpty -r -m shell out '*RESULT*END*' || exit
print -r -- "${${out##*RESULT }%%END*}"
zpty -d shell`

	// fish --no-config -c: it says itself what it would propose.
	inFish = `source $argv[1]/egressd.fish
complete --do-complete $argv[2]`
)

// TestCompletions: the shells complete a verb, a flag, and nothing where there is nothing.
func TestCompletions(t *testing.T) {
	share := filepath.Join(unpacked(t), "usr/share")
	for _, shell := range []struct {
		name, dir string
		args      []string
	}{
		{"bash", "bash-completion/completions", []string{"--norc", "-c", inBash}},
		{"zsh", "zsh/vendor-completions", []string{"-f", "-c", inZsh}},
		{"fish", "fish/vendor_completions.d", []string{"--no-config", "-c", inFish}},
	} {
		t.Run(shell.name, func(t *testing.T) {
			for line, want := range map[string]string{
				"egressd versi":        "version",
				"egressd run --log-fo": "--log-format",
				"egressd no-such-verb": "",
			} {
				got := completed(t, shell.name, append(shell.args, filepath.Join(share, shell.dir), line)...)
				if shell.name == "zsh" { // it prints the whole line
					got = strings.TrimPrefix(got, line[:strings.LastIndex(line, " ")+1])
					if want == "" {
						want = "no-such-verb"
					}
				}
				got, _, _ = strings.Cut(got, "\t") // fish explains
				if got != want {
					t.Errorf("%q is completed to %q, want %q", line, got, want)
				}
			}
		})
	}
}

// completed is what a shell prints that finds egressd.
func completed(t *testing.T, shell string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, shell, args...)
	cmd.Env = []string{"PATH=" + filepath.Dir(built) + ":" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "TERM=dumb", "LANG=C"}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%s: %v", shell, err)
	}
	return strings.TrimSpace(string(out))
}
