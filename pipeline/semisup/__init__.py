"""Semi-supervised training: labelled speech, and unlabelled speech with the labels of a teacher."""
