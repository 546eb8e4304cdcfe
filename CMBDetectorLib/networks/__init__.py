"""The networks alone: they know tensors, not files.

blocks (convolution blocks), backbone (U-Net down to 16 mm and up to 2 mm), detector (feature fusion, proposal head),
anchors (its boxes in mm), prototypes (the loss that keeps mimics apart), plain_unet (the reference without proposals),
segmenter (MARS regions).
"""
