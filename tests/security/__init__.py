"""What others' scanners say of the port of a real daemon."""
