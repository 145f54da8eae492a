package dev.pocketspec.bundle

import dev.pocketspec.json.Json
import java.io.ByteArrayOutputStream
import java.io.File
import java.util.zip.ZipEntry
import java.util.zip.ZipOutputStream

/** The smallest bundle with a manifest that is true: its graphs are bytes that nobody opens. */
class SmallBundle(val name: String = "small") {
    val contents = linkedMapOf(
        "model.onnx" to ByteArray(3_000) { it.toByte() },
        "tokenizer.json" to "{}".toByteArray(),
        "drafters/one/model.onnx" to ByteArray(2_000) { 7 },
    )
    var schema = 4L

    /** The manifest, true for [contents]. */
    fun manifest(): ByteArray = Json.write(
        mapOf(
            "name" to name,
            "levels" to listOf(level("target", "target", "."), level("one", "drafter", "drafters/one")),
            "files" to contents.mapValues { (_, bytes) -> mapOf("bytes" to bytes.size, "sha256" to sha256(bytes)) },
            "schema" to schema,
        ),
    ).toByteArray()

    /** All files with the manifest, which comes last. */
    fun files(): Map<String, ByteArray> = contents + (Manifest.FILE_NAME to manifest())

    fun writeTo(folder: File): File {
        for ((path, bytes) in files()) File(folder, path).apply { parentFile?.mkdirs() }.writeBytes(bytes)
        return folder
    }

    private fun level(name: String, role: String, folder: String) = mapOf(
        "name" to name,
        "role" to role,
        "folder" to folder,
        "architecture" to "llama",
        "shape" to mapOf(
            "layers" to 1, "hidden_size" to 8, "heads" to 2, "kv_heads" to 1, "head_size" to 4, "vocab_size" to 16,
            "positions" to 64, "mlp_size" to 16,
        ),
        "vocabulary" to mapOf("entries" to 16, "sha256" to "", "eos_token_ids" to listOf(2), "bos_token_id" to null),
        "quantization" to mapOf("weights" to "fp32"),
        "graphs" to mapOf("fp32" to "model.onnx"),
        "weight_bytes" to 100,
        "tree" to true,
    )

    companion object {
        fun sha256(bytes: ByteArray): String = BundleFiles.hexadecimal(
            java.security.MessageDigest.getInstance("SHA-256").digest(bytes),
        )

        /** A zip of [files], in their order. */
        fun zip(files: Map<String, ByteArray>): ByteArray {
            val output = ByteArrayOutputStream()
            ZipOutputStream(output).use { zip ->
                for ((path, bytes) in files) {
                    zip.putNextEntry(ZipEntry(path))
                    zip.write(bytes)
                }
            }
            return output.toByteArray()
        }
    }
}
