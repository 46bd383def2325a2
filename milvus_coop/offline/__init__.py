"""Work that is done before a search. Nothing online and nothing that serves imports it. It needs the extra `train` or `eval`.

datasets  captioned images, to train and to evaluate with    evaluation  quality and cost, as the paper measures them
training  of bi-encoders, cross-encoders, joint models       export      small ONNX graphs of PyTorch models
convert   pretrained checkpoints become bundles
"""
