"""Ways for closed segments to leave the volume, behind one small protocol."""
