"""What trading costs: from statistics to Almgren-Chriss parameters, or to the reason why there are none."""
