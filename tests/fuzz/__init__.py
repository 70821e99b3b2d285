"""Any bytes whatsoever, for everything that reads what others wrote."""
