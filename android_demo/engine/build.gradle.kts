import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    kotlin("jvm")
}

val onnxRuntimeVersion: String by rootProject.extra

java {
    sourceCompatibility = JavaVersion.VERSION_1_8
    targetCompatibility = JavaVersion.VERSION_1_8
}

kotlin {
    jvmToolchain(17)
    compilerOptions {
        jvmTarget = JvmTarget.JVM_1_8
        // Android 8.1 has the methods of Java 8 alone: newer ones, such as ByteBuffer.flip of Java 9, would fail there.
        freeCompilerArgs.add("-Xjdk-release=8")
        allWarningsAsErrors = true
    }
}

dependencies {
    // The app brings the same classes for Android; tests run on the desktop's.
    compileOnly("com.microsoft.onnxruntime:onnxruntime:$onnxRuntimeVersion")
    testImplementation("com.microsoft.onnxruntime:onnxruntime:$onnxRuntimeVersion")
    testImplementation(kotlin("test-junit"))
    testImplementation("junit:junit:4.13.2")
}

tasks.test {
    maxHeapSize = "512m"
    jvmArgs("-XX:MaxDirectMemorySize=2g")
    systemProperty("pocketspec.root", rootDir.parent)
}
