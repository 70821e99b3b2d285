"""Clients, faults and a checker: what must hold whatever happens, as Jepsen does it.

`plan` says what goes wrong and when, by a seed; `nemesis` does it. `scene` has the
clients (`user` the library, `terminal` the command line), which run jobs (`job`) whose
output and end are functions of a number, and take down all that they are told
(`history`). `checker` compares that with what the jobs noted themselves.
"""
