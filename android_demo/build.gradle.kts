// The plugins of both modules. Kotlin's version is that of the check without Gradle (check/tools.py).
plugins {
    id("com.android.application") version "8.10.1" apply false
    kotlin("android") version "2.1.21" apply false
    kotlin("jvm") version "2.1.21" apply false
}

// One version of ONNX Runtime for the phone and for the tests on the desktop, within the range of pyproject.toml.
extra["onnxRuntimeVersion"] = "1.30.0"
