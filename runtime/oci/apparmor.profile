# The profile of Shipway's containers: the last wall, behind user namespace and system call filter.
# Much of it repeats what those refuse, for the day that one of them has a hole.

profile NAME flags=(attach_disconnected,mediate_deleted) {
  network inet,
  network inet6,
  network unix,
  network netlink,
  unix,
  capability,
  file,

  signal (receive) peer=unconfined,
  signal (receive) peer=crun,
  signal (receive) peer=runc,
  signal (send, receive) peer=NAME,
  ptrace (read, readby) peer=NAME,

  deny mount,
  deny remount,
  deny umount,
  deny pivot_root,

  deny /proc/* w,
  deny /proc/sys/** wklx,
  deny /proc/{acpi,asound,bus,fs,irq,scsi}/** wklx,
  deny /proc/{kcore,keys,sysrq-trigger,timer_list} rwklx,
  deny /sys/** wklx,
  deny /sys/{firmware,kernel/debug,kernel/security,kernel/tracing}/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
}
