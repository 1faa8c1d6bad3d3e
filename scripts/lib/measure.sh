#!/usr/bin/env bash
# shellcheck disable=SC2034 # what is set here is read by those who source it
# What the measuring scripts share; sourced, from the root of the repository. Servers run on core 0, loadgen on core 1.
# After a start_ function: server is the process to end, address where it listens.

# shellcheck source=scripts/lib/packages.sh
. scripts/lib/packages.sh

server='' address='' log=''
trap 'stop' EXIT

# new_folder WHERE WHAT COMMAND: a dated folder, with the machine; sets folder.
new_folder() {
    local name number
    name=$1/$(date -u +%F)-$2
    folder=$name
    for ((number = 2; ; number++)); do
        [ -e "$folder" ] || break
        folder=$name-$number
    done
    mkdir -p "$folder"
    {
        echo "command    $3"
        scripts/machine
    } >"$folder/machine.txt"
}

# A port that nobody has, by UDP or TCP, at this moment.
free_port() {
    local port
    while port=$((10000 + RANDOM % 20000)); do
        grep -qi "$(printf ':%04X ' "$port")" /proc/net/{tcp,udp,tcp6,udp6} 2>/dev/null || break
    done
    echo "$port"
}

# Whether somebody has this UDP port.
has_udp() { grep -qi "$(printf ':%04X ' "$1")" /proc/net/udp; }

# until_ready COMMAND...: waits until the command succeeds; fails with the server's log when the server ends, or after 20 s.
until_ready() {
    local tries
    for ((tries = 0; tries < 400; tries++)); do
        ! "$@" >/dev/null 2>&1 || return 0
        kill -0 "$server" 2>/dev/null || break
        sleep 0.05
    done
    cat "$log" >&2
    echo "the server did not start" >&2
    exit 1
}

# start_fanfare NAME FLAG...: a node with one shard on core 0; its log is NAME.log in the folder.
start_fanfare() {
    local ready
    log=$folder/$1.log
    shift
    ready=$(mktemp)
    NO_COLOR=1 taskset -c 0 target/release/fanfare serve --shards 1 --listen 127.0.0.1:0 "$@" >"$ready" 2>"$log" &
    server=$!
    until_ready grep '^fanfare ready' "$ready"
    address=$(sed -n 's/^fanfare ready udp=\([^ ,]*\).*/\1/p' "$ready")
    rm "$ready"
}

# start_server NAME COMMAND...: any other, on core 0; what it says goes to NAME.log in the folder.
start_server() {
    log=$folder/$1.log
    shift
    taskset -c 0 "$@" >"$log" 2>&1 &
    server=$!
}

# Ends the server, if there is one.
stop() {
    local ended=$server
    [ -n "$ended" ] || return 0
    kill -TERM "$ended" 2>/dev/null || true
    wait "$ended" 2>/dev/null || true
}

# The server and those that it has started.
processes() { echo "$server"; pgrep -P "$server" || true; }

# CPU time of all processes of the server, in nanoseconds. One that died meanwhile has spent nothing.
cpu_ns() {
    local pid
    for pid in $(processes); do cat "/proc/$pid/task/"*/schedstat 2>/dev/null || true; done | awk '{ sum += $1 } END { printf "%.0f", sum }'
}

# Memory of all processes of the server in KiB; what they share is counted once.
memory_kb() {
    local pid
    for pid in $(processes); do cat "/proc/$pid/smaps_rollup" 2>/dev/null || true; done | awk '/^Pss:/ { sum += $2 } END { print sum + 0 }'
}

# The counter of this name in the last line of them in a node's log.
counter() { grep ' counters ' "$log" | tail -n 1 | grep -o " $1=[0-9]*" | cut -d= -f2 || echo 0; }

# schedule CHANGES SECONDS: flags of loadgen for so many measured changes, SECONDS apart, after two that warm up.
schedule() {
    awk -v changes="$1" -v apart="$2" \
        'BEGIN { printf "--changes %.9g --warmup %.9g --duration %.9g", 1 / apart, 1.5 * apart, (changes - 0.1) * apart }'
}

# during CHANGES SECONDS COMMAND...: runs loadgen by that schedule; sets cpu to what the server spent on the measured
# changes, in nanoseconds, and memory to the most of its KiB. Read between two changes, half of SECONDS after each.
# loadgen's exit status is 1 where something was wrong; its report then says what.
during() {
    local changes=$1 apart=$2 line before=0 measured='' said
    shift 2
    cpu=0 memory=0 said=$folder/loadgen.said
    : >"$said"
    while read -r line; do
        echo "$line" >>"$said"
        case $line in
            "measuring ("*)
                sleep "$(awk -v apart="$apart" 'BEGIN { print 1.5 * apart }')"
                before=$(cpu_ns) measured=yes
                sleep "$(awk -v apart="$apart" -v changes="$changes" 'BEGIN { print changes * apart }')"
                cpu=$(($(cpu_ns) - before)) memory=$(memory_kb)
                ;;
        esac
    done < <("$@" 2>&1 >/dev/null)
    # A server that died is no end of the comparison: loadgen's report says who was not told, or there is none.
    [ -n "$measured" ] || cat "$said" >&2
    [ "$cpu" -gt 0 ] || cpu=0
    rm "$said"
}

# The first value under this key in a report of loadgen.
value() { sed -n "s/^ *\"$2\": \([^,{]*\),\{0,1\}$/\1/p" "$1" | head -n 1; }

# Median (least to most) of a column of the lines whose first field is, or of all where that is empty.
spread() {
    awk -F'\t' -v key="$2" -v column="$3" 'NR > 1 && (key == "" || $1 == key) { print $column }' "$1" | sort -g |
        awk 'function short(value) { return sprintf(value >= 1000 ? "%.0f" : "%.3g", value) }
             { all[NR] = $1 }
             END { printf "%s (%s to %s)", short(all[int((NR + 1) / 2)]), short(all[1]), short(all[NR]) }'
}

# The median alone.
median() { spread "$@" | cut -d' ' -f1; }
