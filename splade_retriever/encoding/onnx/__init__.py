"""ONNX files: read, rewritten and kept. The only package that imports onnx."""
