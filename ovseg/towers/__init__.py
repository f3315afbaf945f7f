"""What says what is where: CLIPs and classifiers, their folders checked and loaded, their towers read densely.

`Clip` (`clip`) and `Classifier` (`classifier`) are the two models that a segmenter asks. `dense` reads an image,
`readout` knows the towers by type, `variants` and `layered` what may take the place of a last block, `regions` and
`region_features` what a mask's feature is, `scoring` how features and text become probabilities.
"""
