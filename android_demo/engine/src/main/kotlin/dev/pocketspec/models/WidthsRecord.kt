package dev.pocketspec.models

import dev.pocketspec.bundle.Bundle
import dev.pocketspec.bundle.WholeFile
import dev.pocketspec.json.Json
import dev.pocketspec.json.JsonException
import dev.pocketspec.plan.LevelPlan
import java.io.File
import java.io.IOException

/** The widths of a target on this device, kept in the bundle's device folder: trying them takes seconds. */
internal class WidthsRecord(private val bundle: Bundle, private val plan: LevelPlan, kernels: String, threads: Int) {
    private val file = File(bundle.deviceFolder, "phone-widths-${plan.kvType}-${plan.maxRows}.json")
    private val key = listOf(kernels, System.getProperty("os.arch"), threads, plan.tree, hashes()).joinToString()

    /** The widths of [model], which must not pad yet. */
    fun of(model: OrtModel): SafeWidths = read() ?: ExactWidths(model).find().also(::write)

    private fun hashes() = bundle.manifest.files.filterKeys { ".onnx" in it }.values.joinToString("") { it.sha256 }.hashCode()

    private fun read(): SafeWidths? = try {
        val data = if (file.isFile) Json.parseObject(file.readText()) else null
        if (data?.text("key") == key) SafeWidths.parse(Json.write(data.child("value").values), plan.maxRows) else null
    } catch (_: JsonException) {
        null // a damaged record is none
    } catch (_: IOException) {
        null
    }

    private fun write(found: SafeWidths) {
        try {
            WholeFile.write(file, Json.write(mapOf("key" to key, "value" to Json.parse(found.toJson()))).toByteArray())
        } catch (_: IOException) {
            file.delete() // they are found again next time
        }
    }
}
