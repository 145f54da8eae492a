"""Builds and tests the Android demo without Android Studio, Gradle or Google's repositories.

``python -m android_demo.check`` compiles engine and app with kotlinc, runs the engine's JUnit tests on the desktop JVM
with the ONNX Runtime of the Python environment, and assembles a signed debug APK. Stages whose tools are missing are
skipped; the last line says which, and how to get the tools. ``places`` and ``tools`` know where things are, ``fetch``
gets what may be downloaded, ``steps`` runs a command unless its inputs are unchanged, and ``native``, ``compile``,
``fixtures``, ``junit`` and ``apk`` are the chain; the others write what tests and engine read.
"""
