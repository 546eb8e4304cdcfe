"""The regions of a case as a segmentation: three groups that are shown, thirteen MARS regions on demand."""
