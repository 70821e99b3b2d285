"""The tests of limits in a virtual machine that has cgroup version 2 alone."""
