"""Prediction: images, folders, videos and buckets in, people out, by a network in any runtime."""
