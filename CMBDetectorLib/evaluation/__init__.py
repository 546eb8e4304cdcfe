"""How well the detector does on cases with truth: matching, free-response ROC, and the choice of the threshold."""
