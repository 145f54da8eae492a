import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    id("com.android.application")
    kotlin("android")
}

val onnxRuntimeVersion: String by rootProject.extra

android {
    namespace = "dev.pocketspec.app"
    compileSdk = 36

    defaultConfig {
        applicationId = "dev.pocketspec.app"
        minSdk = 27 // SharedMemory, in which the arena lies
        targetSdk = 36
        versionCode = 1
        versionName = "0.1.0"
        ndk { abiFilters += listOf("arm64-v8a", "x86_64") }
        externalNativeBuild { cmake { arguments += "-DANDROID_STL=c++_static" } }
    }

    // The native operators, from the sources of runtime/kernels/native.
    externalNativeBuild {
        cmake {
            path = file("src/main/cpp/CMakeLists.txt")
            version = "3.22.1"
        }
    }

    buildTypes {
        release {
            isMinifyEnabled = false
            signingConfig = signingConfigs.getByName("debug") // replace it before you publish
        }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }

    // ONNX Runtime opens the library of operators by its path, so it is a file of its own on the device.
    packaging { jniLibs { useLegacyPackaging = true } }
}

kotlin {
    jvmToolchain(17)
    compilerOptions { jvmTarget = JvmTarget.JVM_1_8 }
}

dependencies {
    implementation(project(":engine"))
    implementation("com.microsoft.onnxruntime:onnxruntime-android:$onnxRuntimeVersion")
}
