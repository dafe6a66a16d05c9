"""Methods that segment by labelled images brought onto a new one."""
