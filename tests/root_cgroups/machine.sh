#!/bin/sh
# What control groups of version 2 do for vassals, on a machine that has all controllers. Runs as its only work, with
# busybox, beside the emperor's program. One line for each thing that is looked at.
v=/job/v; log=/job/log; mkdir -p $v
say() { if [ "$1" = 0 ]; then echo "PASS $2"; else echo "FAIL $2"; bad=1; fi; }
until_() { n=0; while ! eval "$1"; do n=$((n+1)); [ $n -gt 300 ] && return 1; sleep 0.1; done; }
stats() { nc 127.0.0.1 3031 < /dev/null; }
put() { printf '[uwsgi]\n%b\n' "$2" > /job/part; mv /job/part "$v/$1"; }

# An engine by the name of its file. It says that it is loyal and reads what it is told, but for the hungry ones.
cat > /job/engine <<'ENGINE'
#!/bin/sh
case "$*" in
*memory*) [ -e /job/fed ] && exec sleep 1000; : > /job/fed; exec dd if=/dev/zero of=/dev/null bs=60M count=1 ;;
*tasks*) n=0; while [ $n -lt 30 ]; do sleep 1000 & n=$((n+1)); echo $n > /job/forked; done; exec sleep 1000 ;;
*burn*) while :; do :; done ;;
*brood*) [ -e /job/called ] || { : > /job/called; printf '\021\036' >&3; } ;;
*daemon*) setsid sh -c 'setsid sleep 4321 & echo $! > /job/stray' & ;;
esac
printf '\021' >&3
cat <&3 > /dev/null &
exec sleep 1000
ENGINE
chmod +x /job/engine

mkdir /sys/fs/cgroup/own; echo 0 > /sys/fs/cgroup/own/cgroup.procs
/job/emperor --reload-mercy 1 --emperor-stop-timeout 1 --emperor $v --emperor-wrapper /job/engine --emperor-stats 127.0.0.1:3031 \
    --vassal-tasks-max 400 > $log 2>&1 &
emperor=$!
# The shell that started it must be elsewhere: the emperor takes over what is its own.
echo $$ > /sys/fs/cgroup/cgroup.procs
own=/sys/fs/cgroup/own; top=$own/vassals

put plain.ini ""
until_ '[ -d $top/plain.ini ]' && grep -q '^400$' $top/plain.ini/pids.max; say $? "the limit for all is written"
grep -qx $emperor $own/emperor/cgroup.procs && [ -z "$(cat $own/cgroup.procs)" ]; say $? "the emperor is in a leaf of its own"
until_ 'grep -q . $top/plain.ini/cgroup.procs'; say $? "the vassal is in its group"

put memory.ini "memory-max = 20M\nmemory-swap-max = 0"
until_ 'grep -q "memory.ini .*killed by the kernel: out of memory (memory-max 20M)" $log'; say $? "memory-max bites and is told"

put tasks.ini "tasks-max = 10"
until_ 'grep -q "tasks.ini .*refused a process (tasks-max 10)" $log'; say $? "tasks-max bites: $(cat /job/forked) forked"

put burn.ini "cpu-max = 20 percent"
until_ 'grep -q "nr_throttled [1-9]" $top/burn.ini/cpu.stat'; say $? "cpu-max throttles"

put limits.ini "memory-max = 50M\ncpu-weight = 50"
until_ '[ "$(cat $top/limits.ini/memory.max 2>&1)" = 52428800 ]' && [ "$(cat $top/limits.ini/cpu.weight)" = 50 ]; say $? "limits of a file are written"
until_ 'grep -q . $top/limits.ini/cgroup.procs'; before=$(head -n 1 $top/limits.ini/cgroup.procs)
put limits.ini "memory-max = 60M\ntasks-max = 30\n; changed"
until_ '[ "$(cat $top/limits.ini/memory.max)" = 62914560 ]'; say $? "a changed file changes them"
[ "$(cat $top/limits.ini/cpu.weight)" = 100 ] && [ "$(cat $top/limits.ini/pids.max)" = 30 ]; say $? "also those that it names no more"
[ "$(head -n 1 $top/limits.ini/cgroup.procs)" = "$before" ]; say $? "without a restart"

roll="command = /bin/sleep 1000\ntouch-reload-mode = rolling"
put roll.ini "$roll\nmemory-max = 50M"
until_ 'grep -q . $top/roll.ini/cgroup.procs 2>/dev/null'; former=$(cat $top/roll.ini/cgroup.procs)
put roll.ini "$roll\nmemory-max = 60M"
until_ 'cat $top/roll.ini*/cgroup.procs | grep -q . && ! cat $top/roll.ini*/cgroup.procs | grep -qx $former'; say $? "who takes another's place by rolling is alone in the end"
[ "$(cat $top/roll.ini*/cgroup.procs | wc -l) $(cat $top/roll.ini*/memory.max)" = "1 62914560" ]; say $? "in one group, with the limits of its own file"
rm $v/roll.ini
until_ '[ -z "$(ls -d $top/roll.ini* 2>/dev/null)" ]'; say $? "which goes with it"

put daemon.ini ""
until_ '[ -s /job/stray ]'; stray=$(cat /job/stray)
grep -qx $stray $top/daemon.ini/cgroup.procs; say $? "a daemon that was forked twice is in the group"
rm $v/daemon.ini
until_ '! kill -0 $stray 2>/dev/null && [ ! -d $top/daemon.ini ]'; say $? "and ends with its vassal"

# A document has what two milliseconds suffice for; the next one goes on with the others.
until_ 'stats | grep -q \"cpu_throttled\":[1-9]'; say $? "stats tell of the processor"
until_ 'stats | grep -q \"oom_kills\":1'; all=$(stats)
echo "$all" | grep -q '"oom_kills":1'; say $? "stats tell of memory"
echo "$all" | grep -q '"some_avg10"'; say $? "stats tell of pressure"

kill -USR2 $emperor
until_ 'grep -q "vassals taken over" $log'; until_ 'stats | grep -q memory_peak'
[ "$(head -n 1 $top/limits.ini/cgroup.procs)" = "$before" ] && grep -qx $emperor $own/emperor/cgroup.procs; say $? "groups outlive the program"

put late.ini "memory-max = 40M"
until_ '[ "$(cat $top/late.ini/memory.max 2>&1)" = 41943040 ]'; say $? "and new ones are made after it"

kill -TERM $emperor; wait $emperor; say $? "a clean end"
[ -z "$(find $own -mindepth 1 -type d)" ]; say $? "leaves no group: $(find $own -mindepth 1 -type d | tr '\n' ' ')"

# Killed, with a vassal that has left something: the next emperor finds it.
echo 0 > $own/cgroup.procs
rm $v/*; put daemon.ini ""; rm /job/stray
/job/emperor --reload-mercy 1 --emperor-stop-timeout 1 --emperor $v --emperor-wrapper /job/engine --vassal-cgroup >> $log 2>&1 &
emperor=$!; echo $$ > /sys/fs/cgroup/cgroup.procs
until_ '[ -s /job/stray ] && grep -q . $top/daemon.ini/cgroup.procs'; stray=$(cat /job/stray)
kill -KILL $emperor; wait $emperor
until_ 'kill -0 $stray'; rm $v/*; put plain.ini ""
echo 0 > $own/emperor/cgroup.procs
/job/emperor --reload-mercy 1 --emperor-stop-timeout 1 --emperor $v --emperor-wrapper /job/engine --vassal-cgroup >> $log 2>&1 &
emperor=$!; echo $$ > /sys/fs/cgroup/cgroup.procs
until_ '! kill -0 $stray 2>/dev/null && [ ! -d $top/daemon.ini ]'; say $? "what a killed emperor has left is cleared away"
until_ 'grep -q . $top/plain.ini/cgroup.procs'
kill -TERM $emperor; wait $emperor
[ -z "$(find $own -mindepth 1 -type d)" ]; say $? "and nothing is left then"

# In the root of the tree, with others: nobody is moved.
rm $v/*; put plain.ini "memory-max = 30M"
/job/emperor --reload-mercy 1 --emperor-stop-timeout 1 --emperor $v --emperor-wrapper /job/engine >> $log 2>&1 &
emperor=$!
until_ '[ "$(cat /sys/fs/cgroup/emperor-*/plain.ini/memory.max 2>&1)" = 31457280 ]'; say $? "in the root, beside others"
grep -qx $emperor /sys/fs/cgroup/cgroup.procs; say $? "nobody is moved there"
kill -TERM $emperor; wait $emperor
[ -z "$(find /sys/fs/cgroup -name 'emperor-*')" ]; say $? "and nothing is left there"

# Reinforcements share their base's limits.
rm $v/*; put brood.ini "memory-max = 35M"
/job/emperor --reload-mercy 1 --emperor-stop-timeout 1 --emperor $v --emperor-wrapper /job/engine --emperor-broodlord 2 >> $log 2>&1 &
emperor=$!
until_ 'grep -q . /sys/fs/cgroup/emperor-*/brood.ini/base/cgroup.procs && grep -q . /sys/fs/cgroup/emperor-*/brood.ini/zerg-1/cgroup.procs'
say $? "base and reinforcement are in groups of their own"
[ "$(cat /sys/fs/cgroup/emperor-*/brood.ini/memory.max)" = 36700160 ] && [ ! -e /sys/fs/cgroup/emperor-*/brood.ini/base/memory.max ]
say $? "below the limits of both"
kill -TERM $emperor; wait $emperor
[ -z "$(find /sys/fs/cgroup -name 'emperor-*')" ]; say $? "and nothing of them is left"

# In a group that others share: accounts and an end, but no limits, and one line that says why.
rm $v/*; put plain.ini "memory-max = 30M"
mkdir /sys/fs/cgroup/shared; echo 0 > /sys/fs/cgroup/shared/cgroup.procs
/job/emperor --reload-mercy 1 --emperor-stop-timeout 1 --emperor $v --emperor-wrapper /job/engine > /job/log2 2>&1 &
emperor=$!
until_ 'grep -q "memory-max is not enforced: other processes are in the emperor.s own group" /job/log2'; say $? "what is not enforced is said"
until_ 'grep -q . /sys/fs/cgroup/shared/emperor-*/plain.ini/cgroup.procs'; say $? "and the vassal runs in a group all the same"
grep -qx $$ /sys/fs/cgroup/shared/cgroup.procs; say $? "the others are left where they are"
kill -TERM $emperor; wait $emperor
[ -z "$bad" ] || { cat $log /job/log2; find $own -type d; }
exit ${bad:-0}
