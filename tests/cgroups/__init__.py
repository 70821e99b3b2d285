"""Tests of the groups of jobs; those on the real kernel need root."""
