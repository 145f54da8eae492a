"""The Android demo in Kotlin, and ``check``, which builds and tests it without Android Studio."""
