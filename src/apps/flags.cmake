target_compile_definitions(m3_apps PRIVATE M3_VERSION="${PROJECT_VERSION}"
                                           M3_DATA_DIR="${CMAKE_SOURCE_DIR}/data")
